"""What the student learns from: a live model now, its cached outputs later, behind one interface."""
