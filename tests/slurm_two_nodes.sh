#!/bin/bash
# A real Slurm with two nodes of 8 pretended GPUs on one machine, on loopback, for testing job scripts (root; Debian:
# apt-get install slurm-wlm munge). A lost node is noticed, and a job queues again, within seconds.
#   slurm_two_nodes.sh start DIR    then: export SLURM_CONF=DIR/slurm.conf; sinfo; srun -N2 -n2 hostname; sbatch job.sbatch
#   slurm_two_nodes.sh stop DIR
set -euo pipefail
dir=$(realpath -m "${2:?usage: slurm_two_nodes.sh start|stop DIR}")
case ${1:-} in
start)
  mkdir -p "$dir"/{state,spool,log} /run/munge
  chown munge: /run/munge
  host=$(hostname -s)
  cat > "$dir/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((20000 + $$ % 9000))
AuthType=auth/munge
AuthInfo=cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldLogFile=$dir/log/controller.log
SlurmdLogFile=$dir/log/%n.log
SlurmctldPidFile=$dir/controller.pid
SlurmdPidFile=$dir/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
SchedulerType=sched/backfill
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
GresTypes=gpu
SlurmdTimeout=9
KillWait=5
SlurmdParameters=config_overrides
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((30000 + $$ % 900 * 2))-$((30001 + $$ % 900 * 2))] CPUs=64 RealMemory=2000 Gres=gpu:8 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP MaxTime=INFINITE
CONF
  for i in $(seq 0 7); do mknod "$dir/gpu$i" c 1 3; done # What stands for a GPU: /dev/null by another name.
  echo "Name=gpu File=$dir/gpu[0-7]" > "$dir/gres.conf"
  export SLURM_CONF=$dir/slurm.conf
  munge -n > /dev/null 2>&1 || su -s /bin/sh munge -c munged
  slurmctld
  sleep 2
  slurmd -N n1; slurmd -N n2
  for _ in $(seq 20); do sinfo -h -t idle -o %D | grep -qx 2 && exit 0; sleep 1; done
  echo "the nodes did not come up; see $dir/log" >&2; exit 1 ;;
stop)
  for p in n1 n2 controller; do
    if [ -f "$dir/$p.pid" ]; then kill "$(cat "$dir/$p.pid")" || true; fi
  done ;;
*) echo "usage: slurm_two_nodes.sh start|stop DIR" >&2; exit 2 ;;
esac
