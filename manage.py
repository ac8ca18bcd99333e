#!/usr/bin/env python
"""Django's command-line door."""

import gc
import os
import sys

import django
from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "toxicmod.settings")
    # What is loaded stays: to look for garbage among it takes a fifth of the start.
    gc.disable()
    django.setup()
    gc.freeze()
    gc.enable()
    execute_from_command_line(sys.argv)
