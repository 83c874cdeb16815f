"""Generated calls of everything public, with right and wrong arguments: none may end in a bare traceback."""
