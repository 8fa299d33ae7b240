"""The live side: frames watched as they come, events told to whoever wants to know."""
