"""What explanations are worth: variance explained beside floors and ceilings, controls, claims, copying, health."""
