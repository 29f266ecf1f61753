"""Terminal emulation: renders a program's output as the screen that a person would see."""
