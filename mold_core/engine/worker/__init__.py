"""Workers load and run models on one device, in this process or in a separate one."""
