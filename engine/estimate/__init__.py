"""What training on many processes will need: memory, communication and time, found by tracing a step of one rank."""
