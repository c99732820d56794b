"""The page kit, whatever the task: charts, number formats, intervals, records and run folders."""
