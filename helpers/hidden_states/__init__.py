"""Hidden states at named token positions: captured, stored, mapped."""
