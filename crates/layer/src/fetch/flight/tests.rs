use super::*;

fn all(_: usize) -> bool {
    true
}

fn request<'a>(awaited: &'a [(usize, Range<u64>)], wanted: &'a [usize], priority: Priority) -> Request<'a> {
    Request { awaited, wanted, priority, near: 100 }
}

const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_second_reader_waits_for_the_first_ones_fetch() {
    let flights = Arc::new(Flights::default());
    let (first, mut tickets) = flights.board(&request(&[(1, 9..10)], &[1, 2], Priority::Demand), all);
    let (second, none) = flights.board(&request(&[(1, 9..10)], &[1], Priority::Demand), all);
    assert_eq!((first.len(), tickets.len(), second.len(), none.len()), (1, 2, 1, 0));
    tickets.remove(0).land(Ok(()));
    for wait in first.into_iter().chain(second) {
        wait.landed(LONG).await.unwrap();
    }
    assert_eq!(flights.len(), 1);
}

#[tokio::test]
async fn a_dropped_ticket_fails_its_waiters_and_frees_the_span() {
    let flights = Arc::new(Flights::default());
    let (waits, tickets) = flights.board(&request(&[(7, 9..10)], &[7], Priority::Demand), all);
    drop(tickets);
    for wait in waits {
        assert_eq!(wait.landed(LONG).await.unwrap_err().kind(), Kind::Closed);
    }
    let (_, again) = flights.board(&request(&[], &[7], Priority::Demand), all);
    assert_eq!(again.len(), 1);
}

#[test]
fn what_is_not_missing_any_more_is_not_fetched() {
    let flights = Arc::new(Flights::default());
    let request = request(&[(1, 9..10), (2, 18..20)], &[1, 2], Priority::Demand);
    let (waits, tickets) = flights.board(&request, |span| span == 2);
    assert_eq!((waits.len(), tickets.len()), (1, 1));
}

/// A job in flight with span 5, at this place.
fn job(flights: &Arc<Flights>, priority: Priority, position: u64) -> (Vec<Ticket>, Arc<Course>) {
    let (_, tickets) = flights.board(&request(&[], &[5], priority), all);
    let course = Arc::new(Course::new(priority));
    tickets.iter().for_each(|ticket| ticket.set_course(&course));
    if position > 0 {
        course.asked(&[5..300, 500..2000]);
        course.at(position);
    }
    (tickets, course)
}

#[tokio::test]
async fn a_span_that_is_about_to_arrive_is_waited_for_and_hastened() {
    let flights = Arc::new(Flights::default());
    let (tickets, course) = job(&flights, Priority::Background, 850);
    assert!(!course.urgent());
    let (waits, again) = flights.board(&request(&[(5, 900..1000)], &[5], Priority::Demand), all);
    assert_eq!((waits.len(), again.len()), (1, 0));
    assert!(course.urgent());
    course.at(1000);
    assert!(!course.urgent());
    drop(tickets);
}

#[test]
fn only_bytes_that_were_asked_for_lie_before_a_span() {
    let course = Course::new(Priority::Demand);
    assert_eq!(course.bytes_before(900), None);
    course.asked(&[100..200, 5000..5100, 9000..9500]);
    assert_eq!(course.bytes_before(9000), Some(200));
    course.at(5050);
    assert_eq!(course.bytes_before(9000), Some(50));
    course.at(9200);
    assert_eq!(course.bytes_before(9000), Some(0));
}

#[tokio::test]
async fn a_span_that_is_far_off_is_fetched_a_second_time_and_not_a_third() {
    for position in [0, 10] {
        let flights = Arc::new(Flights::default());
        let (first, _course) = job(&flights, Priority::Background, position);
        let demand = request(&[(5, 900..1000)], &[5], Priority::Demand);
        let (waits, second) = flights.board(&demand, all);
        assert_eq!((waits.len(), second.len()), (1, 1));
        let (more, third) = flights.board(&demand, all);
        assert_eq!((more.len(), third.len()), (1, 0));
        for ticket in second {
            ticket.land(Ok(()));
        }
        for wait in waits.into_iter().chain(more) {
            wait.landed(LONG).await.unwrap();
        }
        assert!(flights.is_empty());
        // The late one changes nothing, also for a new flight of the same span.
        let (_, fresh) = flights.board(&demand, all);
        for ticket in first {
            ticket.land(Err(Error::new(Kind::Source, "late")));
        }
        assert_eq!((fresh.len(), flights.len()), (1, 1));
    }
}

#[tokio::test]
async fn one_failure_of_two_fetches_is_not_told() {
    let flights = Arc::new(Flights::default());
    let (first, _course) = job(&flights, Priority::Background, 10);
    let (waits, second) = flights.board(&request(&[(5, 900..1000)], &[5], Priority::Demand), all);
    for ticket in second {
        ticket.land(Err(Error::new(Kind::Source, "no")));
    }
    assert_eq!(flights.len(), 1);
    for ticket in first {
        ticket.land(Ok(()));
    }
    for wait in waits {
        wait.landed(LONG).await.unwrap();
    }
}

#[test]
fn a_demand_that_waits_for_its_turn_is_not_doubled() {
    let flights = Arc::new(Flights::default());
    let (_tickets, _course) = job(&flights, Priority::Demand, 0);
    let (_, again) = flights.board(&request(&[(5, 900..1000)], &[5], Priority::Demand), all);
    assert!(again.is_empty());
}

#[tokio::test]
async fn a_fetch_that_takes_too_long_is_left_to_itself() {
    let flights = Arc::new(Flights::default());
    let demand = request(&[(7, 90..100)], &[7], Priority::Demand);
    let (waits, first) = flights.board(&demand, all);
    for wait in waits {
        assert_eq!(wait.landed(Duration::from_millis(10)).await.unwrap_err().kind(), Kind::Timeout);
    }
    let (waits, none) = flights.board(&demand, all);
    assert!(none.is_empty(), "the kernel's second try");
    for wait in waits {
        assert_eq!(wait.landed(Duration::from_millis(10)).await.unwrap_err().kind(), Kind::Timeout);
    }
    tokio::time::sleep(SECOND_TRY * 2).await;
    let (waits, second) = flights.board(&demand, all);
    assert_eq!((waits.len(), second.len()), (1, 1));
    for ticket in first {
        ticket.land(Err(Error::new(Kind::Source, "late")));
    }
    for ticket in second {
        ticket.land(Ok(()));
    }
    for wait in waits {
        wait.landed(LONG).await.unwrap();
    }
}
