"""Drawing, and the places where drawings, scalars and configs go."""
