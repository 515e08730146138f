"""Circuits from declarations: a Cast or a Mac as synthesizable logic, its netlist simulated against the emulator, its gates."""
