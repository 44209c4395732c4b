"""Every scalar of a folder of event files as TensorBoard itself reads them: {tag: [[step, value], ...]}.

usage: tensorboard_points.py FOLDER
"""
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0}, purge_orphaned_data=False)
events.Reload()
print(json.dumps({tag: [[point.step, point.value] for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}))
