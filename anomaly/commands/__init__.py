"""One file a verb: reads the configuration, calls the program, tells the person what happened."""
