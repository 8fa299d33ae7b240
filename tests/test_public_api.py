"""The names that others may build on. A change here is a change for them: it belongs in the changelog."""

from __future__ import annotations

import ast
import importlib

import pytest
from small_model import ROOT

PUBLIC = {
    "anomaly.types": """
        Frame Interval
    """,
    "anomaly.errors": """
        AddressTakenError AnomalyError CalibrationError CertificateError CorruptModelError DamagedFootageError EventGoneError FootageError
        LabelsError ModelError NoFootageError SchemaError SourceError StoreError StoreFullError StoreReplacedError
        UsageError WeightsError
    """,
    "anomaly.footage.source": """
        HEATMAPS IMAGE_SUFFIXES Source SourceInfo VIDEO_SUFFIXES duration_s find_sources fingerprint natural_key
        probe read_frame_at read_frames steps_s under_masks
    """,
    "anomaly.footage.labels": """
        LabeledFootage load_labels read_mask
    """,
    "anomaly.footage.clips": """
        VideoWriter
    """,
    "anomaly.footage.masks": """
        read_mask
    """,
    "anomaly.regions": """
        BoolArray Point Polygon Regions
    """,
    "anomaly.decider": """
        Alarm Decider DeciderConfig DeciderState Decision alarms decision_scores in_alarm smooth
    """,
    "anomaly.calibration": """
        Calibration CameraCalibrations Certificate Decided Event EventOutcome FalseAlarms KindOutcome
        NormalWindows OperatingPoint ScoreScale Series Study calibrate calibrate_cameras calibrate_scaled camera_of certify decide
        event_outcomes event_scores events_needed false_alarms fit_scale fit_scales frame_recall join_events just_below
        kind_outcomes normal_windows recall_bound scaled_apart split_events study threshold_grid threshold_rank
    """,
    "anomaly.metrics": """
        PixelMetrics auroc average_precision bootstrap_interval
    """,
    "anomaly.resize": """
        banded_pair resize resize_matrix same_shape
    """,
    "anomaly.extractor": """
        BackboneSpec Extractor choose_input_size patch_places
    """,
    "anomaly.backbone": """
        Backbone BackboneSpec PatchFeatures choose_input_size
    """,
    "anomaly.exported": """
        Choice Export FOLDER GraphBackbone INDEX TORCH choose exports graph_backbone read_export runtime_version
    """,
    "anomaly.exporting": """
        Exported export_model operations_of parts_of
    """,
    "export": """
        DeviceMissingError ENDINGS EngineError ExportError Graph MAP_FACTOR MemoryShortError PRECISIONS Parity QUANTISED
        RuntimeMissingError TOLERANCE UnsupportedError available_bytes bank_inputs check_room check_runtime compare frame_bytes
        installed map_difference nvidia_facts open_graph parting search_bytes
    """,
    "anomaly.weights": """
        SOURCES StoredWeights WeightsSource fits_network keep load_weights read_file store_folder stored
        tensor_digest
    """,
    "anomaly.projection": """
        Projection fit_projection
    """,
    "anomaly.heatmap": """
        Box anomaly_box anomaly_map draw_box frame_score heat_range laid_over outline overlay top_count
    """,
    "anomaly.detector": """
        Branch CameraState Detector Look Places Recent Result rescaled
    """,
    "anomaly.splits": """
        BLOCK_PERIOD_S CLIPS_FOR_WHOLE_HOLDOUT Span is_excluded parse_drops plan_holdout
    """,
    "anomaly.fitting": """
        Added FitOptions FitReport add_footage checkpoint_folder discard_checkpoint fit only_fit rows_at_most rows_only_lower
        unknown_sources
    """,
    "anomaly.moments": """
        GUARD_S guard_of same_moment
    """,
    "anomaly.review": """
        MOMENT_S Moment NOTHING_TO_COMPARE WORST_ROWS isolation rank_moments write_review
    """,
    "anomaly.artifact": """
        ADDED_KEYS LOOKS SCHEMA added_files archive_bytes canonical check_place check_says digest_of file_digest finite name_file read_description read_signed recover replace_subfolder save_folder
        scoring_digest sign write_file write_json
    """,
    "anomaly.model": """
        Model bank_entry bank_file load_bank load_model load_projection save_model software spec_of
    """,
    "anomaly.scores": """
        FILE packed read_series replace_labeled scores_without
    """,
    "anomaly.evidence": """
        Evidence FOLDER SETTLED Stretch has_evidence load_evidence png save_evidence
    """,
    "anomaly.recertification": """
        Recheck judge look_again looking recheck
    """,
    "anomaly.evidence_collection": """
        collect_evidence event_needs
    """,
    "anomaly.exemplars": """
        CELL Exemplars carry_over cut exemplars_of load_exemplars make_exemplars surroundings
    """,
    "anomaly.explanation": """
        Match Moment Worst clock draw facts headline match moment_name
    """,
    "anomaly.banks": """
        clips_between coverage_bound difference forget_clips merge_models only_branch without_files
    """,
    "anomaly.looks": """
        Look joined labelled_otherwise looks_at looks_bytes remember settings_tried tried_elsewhere
    """,
    "anomaly.thresholds": """
        COARSER Threshold calibrated_events calibration_document calibration_path camera_scales evidence_is_of_another
        identities load_threshold of_this_version save_calibration threshold_of
    """,
    "anomaly.scoring": """
        Scored cache_folder look_at score_source score_sources
    """,
    "anomaly.evaluation": """
        Evaluation evaluate flat inside measure_rate
    """,
    "anomaly.edge.incidents": """
        Event Incidents Step
    """,
    "anomaly.edge.watch": """
        Watched watch
    """,
    "anomaly.edge.sinks": """
        AnnotatedVideo EventLog annotate write_jpeg
    """,
    "anomaly.conveyor": """
        Clip ClipLabel ConveyorFootage Fault KINDS MOTION_KINDS PlannedFault SceneConfig plan_clip
        render_clip write_footage write_short_clips
    """,
    "anomaly.cli": """
        nvidia_gpu_present run split_overrides to_overrides
    """,
    "anomaly.failures": """
        as_keys describe no_key
    """,
    "anomaly.verbs": """
        COMMANDS Command Flag
    """,
    "memory_bank": """
        Additions CoresetConfig Coverage EXACT Forgotten Grown Index KINDS Members MemoryBank MemoryBankError Merged Origins
        Part PartMerger Selection StreamingCoreset TemporalSearch add_rows build_index check_kind checkpoint_note forget_source
        kcenter_greedy kcenter_select largest_reweighted load_checkpoint merge_banks merge_parts part_of recall reweighted
        save_checkpoint
    """,
}


def offered(module: str) -> list[str]:
    """`__all__`, or every name without an underscore that the module defines."""
    path = ROOT.joinpath(*module.split("."))
    tree = ast.parse(
        (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    )
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
        for target in targets:
            if isinstance(target, ast.Name) and target.id == "__all__":
                return sorted(ast.literal_eval(node.value))  # type: ignore[arg-type, union-attr]
            if isinstance(target, ast.Name):
                found.add(target.id)
    # A single capital is the type variable of a generic function.
    return sorted(name for name in found if not name.startswith("_") and len(name) > 1)


@pytest.mark.parametrize("module", PUBLIC)
def test_a_module_offers_what_it_promised_and_nothing_by_accident(module: str):
    assert offered(module) == sorted(PUBLIC[module].split())


@pytest.mark.parametrize("module", PUBLIC)
def test_every_promised_name_is_there_and_says_what_it_is(module: str):
    loaded = importlib.import_module(module)
    assert loaded.__doc__
    for name in PUBLIC[module].split():
        value = getattr(loaded, name)
        if isinstance(value, type) or callable(value):
            assert value.__doc__, f"{module}.{name} has no docstring"
