"""The command line: what it means, how processes start, how faults are explained."""
