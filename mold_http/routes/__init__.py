"""The routes of the API: the table, and one module of handlers per resource."""
