"""What a third party adds to hwsim: a format, a task, an executor and a sink."""
