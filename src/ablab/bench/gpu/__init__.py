"""`ablab bench gpu`: all that is to be known of a GPU at hand, in one command of some minutes."""
