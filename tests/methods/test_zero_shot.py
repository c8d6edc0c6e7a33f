from typer.testing import CliRunner

from gorp.cli.main import build_app
from gorp.run import run_stream
from gorp.run_config import RunConfig


def test_nothing_is_learnt_and_a_report_is_written(tiny_models, tiny_stream, tmp_path, kind):
    config = {"method": "zero-shot", "model": str(tiny_models[kind]), "stream": str(tiny_stream)}
    record = run_stream(RunConfig.from_mapping(config), tmp_path)
    assert [(stage.index, stage.steps, stage.layers, stage.train_loss) for stage in record.stages] == [(2, 0, {}, [])]
    assert record.matrix == [[None] * 3, [None] * 3, record.zero_shot]
    result = CliRunner().invoke(build_app("report"), ["report", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "zero-shot" in (tmp_path / "report.html").read_text()


def test_nothing_can_learn(attach):
    method = attach("zero-shot")
    assert not any(parameter.requires_grad for parameter in method.model.parameters())
    before = {name: value.clone() for name, value in method.model.state_dict().items()}
    method.optimizer().step()
    assert all(value.equal(before[name]) for name, value in method.model.state_dict().items())
    assert method.weights() == {}
