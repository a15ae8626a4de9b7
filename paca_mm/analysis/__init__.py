"""Looking at models: what they cost and what they see. The tools are thin command lines over this."""
