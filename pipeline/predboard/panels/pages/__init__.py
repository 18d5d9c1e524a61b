"""The long texts of panels: one file has the pages of the panel of its name. It measures nothing.

Short texts stand in the panel itself; a new panel needs no file here.
"""
