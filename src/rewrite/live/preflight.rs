//! Whether a rewrite may begin: what its members say of themselves, and the room that their databases have.
//!
//! Upstream: `etcd-io/etcd`, `server/storage/quota.go`: the size of the file counts, not what is in use of it, and a member that
//! reaches its quota lets nobody write until somebody disarms the alarm.

use super::super::judging::Inside;
use super::plan::Plan;

/// etcd's quota unless it is told another one.
const DEFAULT_QUOTA: u64 = 2 << 30;

/// The share of the quota that may be filled, in hundredths.
const FILLABLE: u64 = 80;

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The endpoint as it was given.
    pub endpoint: String,
    /// Its number in the cluster.
    pub id: u64,
    /// Its release.
    pub version: String,
    /// Bytes of its database file.
    pub db_size: u64,
    /// ... of which are in use; servers before 3.4 do not say.
    pub in_use: u64,
    /// The most it may have; servers before 3.6 do not say.
    pub quota: Option<u64>,
    /// Whether it leads.
    pub leads: bool,
    /// Committed and not yet applied requests.
    pub backlog: u64,
    /// What stands as an alarm or is amiss otherwise, in the server's words.
    pub alarms: Vec<String>,
}

/// The room of the member that has least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// Its endpoint.
    pub endpoint: String,
    /// Bytes of its database file.
    pub db_size: u64,
    /// What the file will have at most.
    pub peak: u64,
    /// The most it may have.
    pub quota: u64,
    /// The server did not say, and nobody else did.
    pub quota_assumed: bool,
}

impl Space {
    /// Of the member that comes nearest to its quota. `every` changes the store is compacted, so that what comes later takes the
    /// place of what was before.
    pub fn of(members: &[Member], plan: &Plan, every: Option<u64>, quota: Option<u64>) -> Option<Self> {
        let needed = match every {
            // One round fills what the compaction before it has freed, while the next compaction is still to come.
            Some(every) if plan.rewritten > 0 => {
                let round = u128::from(plan.growth) * u128::from(every) / u128::from(plan.rewritten);
                plan.growth.min(u64::try_from(round).unwrap_or(u64::MAX).saturating_mul(2))
            }
            _ => plan.growth,
        };
        let space = |member: &Member| {
            let free = if member.in_use == 0 { 0 } else { member.db_size.saturating_sub(member.in_use) };
            Self {
                endpoint: member.endpoint.clone(),
                db_size: member.db_size,
                peak: member.db_size + needed.saturating_sub(free),
                quota: member.quota.or(quota).unwrap_or(DEFAULT_QUOTA),
                quota_assumed: member.quota.or(quota).is_none(),
            }
        };
        members.iter().map(space).max_by_key(|space| u128::from(space.peak) * 1000 / u128::from(space.quota.max(1)))
    }

    /// The most that it is filled to.
    pub fn limit(&self) -> u64 {
        self.quota / 100 * FILLABLE
    }

    /// Whether the file stays below that.
    pub fn suffices(&self) -> bool {
        self.peak <= self.limit()
    }
}

/// Why a rewrite is not begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Values do not open, or would be locked out.
    Values,
    /// K3s or RKE2 would bring the old configuration back.
    Bootstrap,
    /// OpenShift's operators would bring the old configuration back.
    Operators,
    /// Something stands as an alarm at a member.
    Alarm(String, String),
    /// The database would come too near to its quota.
    Quota,
}

impl Obstacle {
    /// The first one that there is.
    pub fn find(plan: &Plan, members: &[Member], space: Option<&Space>, keep_distro_state: bool) -> Option<Self> {
        let Inside { bootstrap, operators } = plan.inside;
        let state = plan.moves && !keep_distro_state;
        let alarmed = members.iter().find_map(|member| Some((member.endpoint.clone(), member.alarms.first()?.clone())));
        match alarmed {
            _ if plan.refused_count > 0 => Some(Self::Values),
            _ if state && bootstrap => Some(Self::Bootstrap),
            _ if state && operators => Some(Self::Operators),
            // Nothing is to be written, so nothing is in the way.
            _ if plan.rewritten == 0 => None,
            Some((endpoint, alarm)) => Some(Self::Alarm(endpoint, alarm)),
            None if space.is_some_and(|space| !space.suffices()) => Some(Self::Quota),
            None => None,
        }
    }

    /// The stable word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Values => "values",
            Self::Bootstrap => "bootstrap",
            Self::Operators => "operators",
            Self::Alarm(..) => "alarm",
            Self::Quota => "quota",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(endpoint: &str, db_size: u64, in_use: u64, quota: Option<u64>) -> Member {
        let (endpoint, version) = (endpoint.to_owned(), "3.6.0".to_owned());
        Member { endpoint, id: 1, version, db_size, in_use, quota, leads: true, backlog: 0, alarms: Vec::new() }
    }

    #[test]
    fn the_member_nearest_to_its_quota_decides_and_rounds_need_less() {
        let plan = Plan { growth: 600, rewritten: 100, ..Plan::default() };
        let members = [member("a", 300, 100, Some(1000)), member("b", 300, 300, Some(1000))];
        let space = Space::of(&members, &plan, None, None).unwrap();
        assert_eq!((space.endpoint.as_str(), space.peak, space.limit(), space.suffices()), ("b", 900, 800, false));
        let space = Space::of(&members, &plan, Some(10), None).unwrap();
        assert_eq!((space.peak, space.suffices()), (420, true));
        // What is free in the file is filled first; where nobody says what is in use, nothing is free.
        assert_eq!(Space::of(&members[..1], &plan, None, None).unwrap().peak, 700);
        assert_eq!(Space::of(&[member("c", 300, 0, None)], &plan, None, Some(7000)).unwrap().peak, 900);
        let assumed = Space::of(&[member("c", 300, 0, None)], &plan, None, None).unwrap();
        assert!(assumed.quota_assumed && assumed.quota == DEFAULT_QUOTA);
    }

    #[test]
    fn alarms_and_quota_are_in_the_way_of_those_who_have_something_to_write() {
        let full = [member("a", 900, 900, Some(1000))];
        let mut alarmed = member("b", 10, 10, Some(1000));
        alarmed.alarms.push("alarm:NOSPACE".to_owned());
        let plan = Plan { growth: 600, rewritten: 100, moves: true, ..Plan::default() };
        let find = |plan: &Plan, members: &[Member], keep| {
            Obstacle::find(plan, members, Space::of(members, plan, None, None).as_ref(), keep)
        };
        assert_eq!(find(&plan, &full, false), Some(Obstacle::Quota));
        let alarm = Obstacle::Alarm("b".to_owned(), "alarm:NOSPACE".to_owned());
        assert_eq!(find(&plan, &[full[0].clone(), alarmed], false), Some(alarm));
        assert_eq!(find(&Plan::default(), &full, false), None);
        let inside = Inside { bootstrap: true, operators: false };
        let mut plan = Plan { inside, ..plan };
        assert_eq!(find(&plan, &full, false), Some(Obstacle::Bootstrap));
        assert_eq!(find(&plan, &full, true), Some(Obstacle::Quota));
        plan.refused_count = 1;
        assert_eq!(find(&plan, &full, true), Some(Obstacle::Values));
    }
}
