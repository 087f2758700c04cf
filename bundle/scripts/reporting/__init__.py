"""What a run leaves for people: tables, figures, DICOM and pages."""

from .dicom import Algorithm, candidate_report, candidate_segmentation, encoded, read_sources, reference_problem
from .dicom_header import clean_header, emptied_attributes
from .figures import curves_picture, froc_figure, froc_picture, scan_picture
from .scores import metrics_table, write_metrics
from .tables import fracture_row, scan_row, write_candidate_tables, write_scan_table

__all__ = [
    "Algorithm",
    "candidate_report",
    "candidate_segmentation",
    "clean_header",
    "curves_picture",
    "emptied_attributes",
    "encoded",
    "fracture_row",
    "froc_figure",
    "froc_picture",
    "metrics_table",
    "read_sources",
    "reference_problem",
    "scan_picture",
    "scan_row",
    "write_candidate_tables",
    "write_metrics",
    "write_scan_table",
]
