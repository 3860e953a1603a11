"""What follows any study's assessment, and the record of a run that it reads."""
