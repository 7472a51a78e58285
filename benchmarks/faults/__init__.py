"""What faults in memory do to outputs and certificates of the kernel library."""
