"""The configuration of a course for nbgrader; `build.py --nbgrader DIR` puts it into DIR, to be changed there."""

from nbgrader.preprocessors import NbGraderPreprocessor

c = get_config()  # noqa: F821 - nbgrader provides it
c.CourseDirectory.course_id = "lora_np"
c.ClearSolutions.code_stub = {"python": '# YOUR CODE HERE\nraise NotImplementedError("replace this line")'}
c.ExecutePreprocessor.timeout = 600


class JudgedAlone(NbGraderPreprocessor):
    """Judge each answer once more, where no cell can change the test; what is not right there has no points."""

    def preprocess(self, nb, resources):
        from lora_np.course.alone import judged_alone  # noqa: PLC0415 - only where answers are graded

        code = [cell for cell in nb.cells if cell.cell_type == "code"]
        names = [self.tested(cell) for cell in code]
        folder = resources["metadata"]["path"]  # of the notebook
        found = judged_alone([(name, cell.source) for name, cell in zip(names, code)], folder)
        for name, cell in zip(names, code):
            if found.get(name) and not any(output.output_type == "error" for output in cell.outputs):
                words = f"judged alone, it is not right: {found[name]}"
                error = {"output_type": "error", "ename": "AssertionError", "evalue": words, "traceback": [words]}
                cell.outputs.append(type(cell)(error))
        return nb, resources

    @staticmethod
    def tested(cell):
        """Return the exercise that a cell tests, "" if it is no test."""
        about = cell.metadata.get("nbgrader", {})
        return about["grade_id"].removeprefix("test-") if about.get("grade") else ""


c.Autograde.autograde_preprocessors.insert(1, JudgedAlone)  # behind what runs the notebook, before what keeps its score
