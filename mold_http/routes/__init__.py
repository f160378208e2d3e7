"""The routes of the API: a table of data, and the handlers of each resource in a module of its own."""
