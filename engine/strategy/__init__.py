"""How the processes of a run share its work: each alone, data parallel, sharded, or tensor parallel."""
