"""Jobs: the queue, the store, and the job kinds that turn requests into results."""
