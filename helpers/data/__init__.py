"""Questions and answers: loading, reading, grading; the embedded word problems."""
