"""Where photographs come from (`datasets`, one file each) and how they become prepared ones (`preparation`). May
import core and stores.
"""
