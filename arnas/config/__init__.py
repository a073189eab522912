"""Settings: the options of all rooms assembled, read, checked and described."""
