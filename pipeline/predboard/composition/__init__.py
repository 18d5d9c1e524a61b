"""Runs made of saved runs, without a model: combined, merged, or a part of one."""
