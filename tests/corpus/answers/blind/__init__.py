"""By somebody who saw the exercises' text alone, after the rules: nobody has looked at these since."""
