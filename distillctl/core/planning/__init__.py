"""What ``train --dry-run`` says before anything is trained: tokens, truncation, downloads, memory, time."""
