"""Workers: what loads and runs models on one device, in this process or in one of its own."""
