"""What the compiler writes: Python modules, pictures, reports for people."""
