//! The jobs that a configuration asks for.
//!
//! Invariant: what the configuration does not schedule is not done, but for a look at everything
//! when the daemon begins.

use crate::config::Config;
use crate::config::plan::When;
use crate::daemon::job::{Job, Task, Trigger};
use crate::id::SourceName;

/// Every job that the configuration asks for.
pub fn jobs(config: &Config) -> Vec<Job> {
    let at = |task, source: Option<&SourceName>, when: &When| Job {
        task,
        source: source.cloned(),
        trigger: Trigger::At(when.schedule.clone(), when.jitter),
        deadline: when.deadline,
    };
    let daemon = &config.daemon;
    let mut jobs = vec![Job {
        task: Task::Probe,
        source: None,
        trigger: Trigger::Start,
        deadline: daemon.deadline,
    }];
    for source in &config.sources {
        let (name, plan) = (Some(&source.name), &source.plan);
        let asked = |task| Job {
            task,
            source: Some(source.name.clone()),
            trigger: Trigger::Asked,
            deadline: plan.deadline,
        };
        if plan.backup.is_none() {
            jobs.push(asked(Task::Backup));
        }
        if plan.drill.is_none() {
            jobs.push(asked(Task::Drill));
        }
        if let Some(when) = &plan.backup {
            let backup = at(Task::Backup, name, when);
            if source.keep.is_some() {
                jobs.push(Job {
                    task: Task::Forget,
                    source: Some(source.name.clone()),
                    trigger: Trigger::After(backup.name()),
                    deadline: when.deadline,
                });
            }
            jobs.push(backup);
        }
        jobs.extend(
            plan.verify
                .iter()
                .map(|plan| at(Task::Verify, name, &plan.when)),
        );
        jobs.extend(plan.drill.iter().map(|when| at(Task::Drill, name, when)));
    }
    let verify = daemon.verify.iter();
    jobs.extend(verify.map(|plan| at(Task::Verify, None, &plan.when)));
    let prune = daemon.prune.iter();
    jobs.extend(prune.map(|plan| at(Task::Prune, None, &plan.when)));
    jobs
}
