"""Where results go: the lake, the dead letter topic and the online store. What blocks is called in a thread."""
