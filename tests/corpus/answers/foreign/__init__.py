"""By somebody who saw the exercises' text alone; then the rules were made with these in sight, too."""
