"""The four built-in rule modules: members, records, drugs, payments. Each is found through its entry point."""
