"""Where runs under the published protocol are not what the released code did, as far as a record can say. docs/protocol.md
holds the whole list, with reasons."""

from __future__ import annotations

from bench.report.gather import Record

ALWAYS = (
    "Each sample draws its own augmentation; in the released code all loader workers drew the same.",
    "The headline is the last epoch; published numbers are of the best test epoch.",
)


def of(protocol: str, records: list[Record]) -> list[str]:
    """A sentence a deviation; none under another protocol, which is another experiment."""
    if protocol != "paper":
        return []
    out = list(ALWAYS)
    used = sorted({record["precision"]["used"] for record in records} - {"fp32"})
    if used:
        out.append(f"TrainResult in {', '.join(used)} (evaluated in fp32); published: fp32.")
    if any((record.get("teacher") or {}).get("select") == "last" for record in records):
        out.append("The teacher's weights are those of its last epoch; published: of its best test epoch.")
    if any(_value(record, "data", "pipeline") == "batched" for record in records):
        out.append("Images are augmented on the device, by the published distributions; published: by timm with Pillow.")
    if any(record["world_size"] > 1 for record in records):
        out.append("Batch norm (the teacher's, CvT's) sees the batch of all processes; published: of each GPU.")
    return out


def _value(record: Record, section: str, name: str) -> object:
    return ((record.get("recipe") or {}).get(section) or {}).get(name)
