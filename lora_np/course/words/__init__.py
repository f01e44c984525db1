"""What is said, a language a file; today there is one."""
