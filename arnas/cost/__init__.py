"""What a run would cost, from steps measured on this machine."""
