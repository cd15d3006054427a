"""What the student learns from: a live model or its cached outputs, behind one interface."""
