# Three answers to each row, in place of a model's: the right one with a word too many, the right one,
# and none. Instruction rows on stdin, response rows on stdout.
sed -E 's/^\{"id":"([^"]*)","instruction":"(.*)","input":"(.*)","output":"(.*)"\}$/{"id":"\1","instruction":"\2","input":"\3","responses":["\4 \4","\4",""]}/'
