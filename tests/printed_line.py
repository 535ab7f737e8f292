"""A program that is ``eg-grpo`` with a ``doctor`` that loads nothing and prints one line."""

PRINTS_A_LINE = """
import sys, types
from orchestrator.cli import main
doctor = types.ModuleType("orchestrator.commands.doctor")
doctor.run = lambda parsed: print("a line")
sys.modules[doctor.__name__] = doctor
sys.exit(main())
"""
