"""The long texts of panels, and what panels of both tasks draw alike. It measures nothing.

Short texts stand in the panel itself; a new panel needs no file here.
"""
