import sys
from ddlib.study.run import run
from ddlib.study.settings import read_settings
import yaml
if __name__=="__main__":
    base=yaml.safe_load(open("parameters/methods/quick.yaml"))
    m=base["methods"]["mtt"]
    short={k:m[k] for k in ("iterations","student_steps","max_start","augmentation","learning_rate","step_size","experts","expert_steps","expert_learning_rate","expert_augmentation")}
    base["methods"]={"random":{}, "mtt":m,"short":{**short,"method":"mtt"},"short64":{**short,"method":"mtt","expert_batch":64}}
    base["seeds"]=2; base["configurations"]={"plain":{}}; base["reference"]="same_steps"
    base["k"]=[10,30,100]
    base["results"]="/tmp/prose-mtt"
    r=run(read_settings(base)).under()
    print(r.trials.groupby(["method","k"])["accuracy"].mean().unstack())
    print(r.costs.groupby(["method","ipc"])[["prepare_seconds","distil_seconds"]].mean())
