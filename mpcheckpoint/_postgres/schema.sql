-- What mpcheckpoint keeps in a database: version 1. All of it stands in one schema, whatever number of stores there is.
--
-- Made by the first handle that may create a store, or by an administrator, as the owner of these tables. A role that
-- appends needs what mpcheckpoint_writer has below, one that reads and follows what mpcheckpoint_reader has; grant either
-- to your own roles. Functions carry the version in their names: a client of another version finds none, and says so.

create schema if not exists mpcheckpoint;

create table mpcheckpoint.version (version integer not null);
insert into mpcheckpoint.version values (1);

-- Ids of stores, of logs and of generations are random, and their makers choose them: no other one ever has the same, so
-- that a server which went back in time (restored, or a standby that lagged behind), and a schema that was made anew, are
-- told from the one where a client found them. Numbers that rise would be given out again there, for something else.
create table mpcheckpoint.store (
    id bigint primary key,
    -- UTF-8, as keys are: a database of another encoding could not hold every name as a text.
    name bytea not null unique,
    -- How many logs it has. Changed under a lock on this row, so no log appears without it.
    logs bigint not null default 0
);

-- The head of a log. Appends have a lock on the log (see lock_1) and do not change this row: a row that each append
-- updates bloats while an old snapshot is open.
create table mpcheckpoint.log (
    id bigint primary key,
    store bigint not null references mpcheckpoint.store,
    key bytea not null,
    key_hash bytea not null generated always as (sha256(key)) stored,
    -- The generation that holds the log, by number and by name; what all its generations share; the names of earlier ones.
    gen bigint not null,
    generation bytea not null,
    lineage bytea not null,
    previous bytea[] not null default '{}',
    -- Where it was copied from: JSON, [{"to": a generation, "cut_us": a stamp}, ...], oldest first. What other
    -- generations up to that one recorded later is not in it.
    restored bytea not null default '[]',
    -- Numbers and stamps of what is appended to this generation are above these, whatever was dropped or copied.
    -- The numbers below the first floor are for the lines in which a compaction says what it dropped.
    floor_number bigint not null default 1048576,
    floor_stamp_us bigint not null,
    -- How many bytes below the last number nothing takes.
    removed_bytes bigint not null default 1048576,
    -- Until when appends notify.
    followed_until timestamptz not null default '-infinity',
    unique (store, key_hash)
);

-- What was appended, a row a batch. A line is [key, event, meta], the key null for a control line, no meta for null.
create table mpcheckpoint.batch (
    gen bigint not null,
    -- The place after the batch, in bytes from the start of the log: the last line ends there, those before it end one,
    -- two ... earlier. Numbers rise without gaps in commit order, since a lock on the log is held until the commit.
    number bigint not null,
    stamp_us bigint not null,
    lines integer not null,
    -- Of the append: who had no answer finds out by it whether it was done.
    id uuid not null,
    -- What the lines are about: a hash of each object's key and each note's name.
    concerns integer[] not null,
    body bytea not null,
    primary key (gen, number)
);
alter table mpcheckpoint.batch alter column body set storage external;
alter table mpcheckpoint.batch alter column concerns set storage external;

-- Generations of a log that it is not in: being written by a compaction, or left over. Who compacts next removes them.
create table mpcheckpoint.leftover (
    log bigint not null references mpcheckpoint.log,
    gen bigint not null primary key
);

-- Who works: alive for as long as a session holds the advisory lock.
create table mpcheckpoint.worker (
    store bigint not null references mpcheckpoint.store,
    id bytea not null,
    lock bigint not null,
    begun_us bigint not null,
    host text not null,
    pid integer not null,
    command text not null,
    shown bytea not null default '',
    primary key (store, id)
);

-- Where another try of the same append is, if one was done; see append_1 for p_id and p_base. The last few batches are
-- looked through first: no other has a stamp that high, as a rule.
create function mpcheckpoint.earlier_try_1(
    p_gen bigint, p_id uuid, p_base bigint, out number bigint, out stamp_us bigint
) language plpgsql as $$
declare
    v_most integer := 16;
    v_count integer;
    v_least bigint;
    v_append bytea := substr(uuid_send(p_id), 1, 14);
begin
    loop
        select max(e.number) filter (where e.is_ours), max(e.stamp_us) filter (where e.is_ours), min(e.stamp_us), count(*)
            into number, stamp_us, v_least, v_count
            from (
                select b.number, b.stamp_us, substr(uuid_send(b.id), 1, 14) = v_append as is_ours
                from mpcheckpoint.batch b where b.gen = p_gen order by b.number desc limit v_most
            ) e;
        if number is not null or v_count < v_most or v_least < p_base then
            return;
        end if;
        v_most := v_most * 16;
    end loop;
end $$;

-- Append a batch, if nothing came since what its condition was judged of that concerns it.
--
-- p_session: proves that this is the session that the client has had from the start, so no pooler between transactions.
-- p_id: of this try; all tries of one append have the same first 14 bytes. Another one may have been done before, also
-- when this is the first try: its message may have been under way for long, and the client may have tried again since.
-- p_base: the stamp that the first try proposed. That of a batch is at least the one that its client proposed, and
-- stamps rise with the numbers: so no try has a smaller one.
-- p_seen_gen, p_seen_number, p_seen_id: up to where the condition was judged; null if there is none.
-- p_relies_on: what it relies on; null for everything.
--
-- Returns, one after the other: 'a' (appended), 'f' (found: an earlier try did it) or 'm' (moved: nothing was written); a
-- byte that is 1 if it waited for the lock, or others would wait for the commit: then the next appends better commit
-- apart from the sync; number and stamp, 8 bytes each, 0 of what moved; the generation, 16 bytes; the lineage.
--
-- Others wait while this runs, so it has few statements: to begin one costs more than what it does. An assignment is none,
-- and an IF is one only where there is a query in it.
create function mpcheckpoint.append_1(
    p_session text, p_log bigint, p_timeout_ms integer, p_id uuid, p_base bigint, p_stamp_us bigint,
    p_lines integer, p_concerns integer[], p_body bytea,
    p_seen_gen bigint, p_seen_number bigint, p_seen_id uuid, p_relies_on integer[], p_is_durable boolean
) returns bytea language plpgsql as $$
declare
    v_done text;
    v_has_waited boolean;
    v_store bigint;
    v_gen bigint;
    v_generation bytea;
    v_lineage bytea;
    v_floor bigint;
    v_floor_stamp_us bigint;
    v_followed_until timestamptz;
    v_end bigint;
    v_end_stamp_us bigint;
    v_number bigint;
    v_stamp_us bigint;
begin
    if current_setting('mpcheckpoint.session', true) is distinct from p_session then
        raise exception 'another session' using errcode = 'MP001';
    end if;
    if p_timeout_ms is not null then
        v_done := set_config('lock_timeout', p_timeout_ms::text, true);
    end if;
    if not p_is_durable then
        v_done := set_config('synchronous_commit', 'off', true);
    end if;
    -- The lock of lock_1.
    v_has_waited := not pg_try_advisory_xact_lock(1836082032, (p_log & 2147483647)::integer);
    if v_has_waited then
        perform pg_advisory_xact_lock(1836082032, (p_log & 2147483647)::integer);
    end if;
    select l.store, l.gen, l.generation, l.lineage, l.floor_number, l.floor_stamp_us, l.followed_until, b.number, b.stamp_us
        into v_store, v_gen, v_generation, v_lineage, v_floor, v_floor_stamp_us, v_followed_until, v_end, v_end_stamp_us
        from mpcheckpoint.log l left join lateral (
            select b.number, b.stamp_us from mpcheckpoint.batch b where b.gen = l.gen order by b.number desc limit 1
        ) b on true
        where l.id = p_log;
    if v_gen is null then
        raise exception 'no such log' using errcode = 'MP002';
    end if;
    if v_end_stamp_us >= p_base then
        select e.number, e.stamp_us into v_number, v_stamp_us from mpcheckpoint.earlier_try_1(v_gen, p_id, p_base) e;
        if v_number is not null then
            return 'f' || boolsend(v_has_waited) || int8send(v_number) || int8send(v_stamp_us) || v_generation || v_lineage;
        end if;
    end if;
    if p_seen_gen is not null then
        if p_seen_gen <> v_gen
            or (p_seen_number > v_floor and not exists (
                select from mpcheckpoint.batch b where b.gen = v_gen and b.number = p_seen_number and b.id = p_seen_id))
            -- Others wait for the lock: no more than a megabyte is looked through.
            or (p_seen_number < coalesce(v_end, 0) and (v_end - p_seen_number > 1048576 or exists (
                select from mpcheckpoint.batch b where b.gen = v_gen and b.number > p_seen_number
                    and (p_relies_on is null or b.concerns && p_relies_on))))
        then
            return 'm' || boolsend(v_has_waited) || int8send(0) || int8send(0) || v_generation || v_lineage;
        end if;
    end if;
    v_number := greatest(v_end, v_floor) + length(p_body);
    v_stamp_us := greatest(v_end_stamp_us + 1, v_floor_stamp_us + 1, p_stamp_us);
    insert into mpcheckpoint.batch values (v_gen, v_number, v_stamp_us, p_lines, p_id, p_concerns, p_body);
    if v_followed_until > clock_timestamp() then
        perform pg_notify('mpcheckpoint_' || v_store, p_log::text);
        -- Followers need not wait for the disk, nor others that notify: the server lets one at a time commit that does.
        v_has_waited := true;
    end if;
    return 'a' || boolsend(v_has_waited) || int8send(v_number) || int8send(v_stamp_us) || v_generation || v_lineage;
end $$;

-- Lock a log, in a transaction of the client's, and say whether an earlier try has appended the batch. Whoever appends to
-- a log, or gives it another generation, has this lock until the commit is visible. It is no lock of the head's row: to
-- lock a row is to write it, under the eyes of those who wait.
create function mpcheckpoint.lock_1(
    p_session text, p_log bigint, p_timeout_ms integer, p_id uuid, p_base bigint,
    out number bigint, out stamp_us bigint, out generation bytea, out lineage bytea
) language plpgsql as $$
declare
    head record;
begin
    if current_setting('mpcheckpoint.session', true) is distinct from p_session then
        raise exception 'another session' using errcode = 'MP001';
    end if;
    if p_timeout_ms is not null then
        perform set_config('lock_timeout', p_timeout_ms::text, true);
    end if;
    -- A standby has locks of its own: a condition would be judged, and refused, of what it has by now.
    if pg_is_in_recovery() then
        raise exception 'a standby takes no appends' using errcode = '25006';
    end if;
    -- The first number is of this library; where the second is equal, two logs wait for each other.
    perform pg_advisory_xact_lock(1836082032, (p_log & 2147483647)::integer);
    select l.gen, l.generation, l.lineage into head from mpcheckpoint.log l where l.id = p_log;
    if head.gen is null then
        raise exception 'no such log' using errcode = 'MP002';
    end if;
    generation := head.generation;
    lineage := head.lineage;
    if p_base is not null then
        select e.number, e.stamp_us into number, stamp_us from mpcheckpoint.earlier_try_1(head.gen, p_id, p_base) e;
    end if;
end $$;

-- Make a log, unless there is one of that key.
create function mpcheckpoint.make_log_1(
    p_store bigint, p_log bigint, p_key bytea, p_gen bigint, p_generation bytea, p_lineage bytea, p_stamp_us bigint,
    p_timeout_ms integer
) returns void language plpgsql as $$
begin
    if p_timeout_ms is not null then
        perform set_config('lock_timeout', p_timeout_ms::text, true);
    end if;
    perform from mpcheckpoint.store s where s.id = p_store for no key update;
    insert into mpcheckpoint.log (id, store, key, gen, generation, lineage, floor_stamp_us)
        values (p_log, p_store, p_key, p_gen, p_generation, p_lineage, p_stamp_us)
        on conflict do nothing;
    if found then
        update mpcheckpoint.store set logs = logs + 1 where id = p_store;
    end if;
end $$;

-- Put the next generation, which holds all that is in p_gen up to p_number and what stays of that, in a log's place,
-- with what is after it; null if there is too much of that, or the log is not the one that was copied.
-- Requires: the lock of lock_1.
create function mpcheckpoint.switch_1(
    p_session text, p_log bigint, p_gen bigint, p_number bigint, p_id uuid, p_next_gen bigint, p_generation bytea
) returns bigint language plpgsql as $$
declare
    head record;
    v_number bigint;
    v_stamp_us bigint;
begin
    if current_setting('mpcheckpoint.session', true) is distinct from p_session then
        raise exception 'another session' using errcode = 'MP001';
    end if;
    select l.gen, l.generation, l.floor_number, l.floor_stamp_us into head
        from mpcheckpoint.log l where l.id = p_log;
    if head.gen is distinct from p_gen or p_id is not null and not exists (
        select from mpcheckpoint.batch b where b.gen = p_gen and b.number = p_number and b.id = p_id)
    then
        return null;
    end if;
    insert into mpcheckpoint.batch
        select p_next_gen, b.number, b.stamp_us, b.lines, b.id, b.concerns, b.body
        from mpcheckpoint.batch b where b.gen = p_gen and b.number > p_number;
    select b.number, b.stamp_us into v_number, v_stamp_us
        from mpcheckpoint.batch b where b.gen = p_gen order by b.number desc limit 1;
    v_number := greatest(coalesce(v_number, 0), head.floor_number);
    update mpcheckpoint.log l set
        gen = p_next_gen, generation = p_generation, previous = (l.previous || head.generation)[greatest(1, cardinality(l.previous) - 498):],
        floor_number = v_number, floor_stamp_us = greatest(coalesce(v_stamp_us, 0), head.floor_stamp_us) + 1,
        removed_bytes = v_number - coalesce((
            select sum(length(b.body)) from mpcheckpoint.batch b where b.gen = p_next_gen), 0)
    where l.id = p_log;
    delete from mpcheckpoint.leftover where gen = p_next_gen;
    insert into mpcheckpoint.leftover values (p_log, p_gen);
    return v_number;
end $$;

-- Begin a worker: it lives for as long as this session holds the lock.
create function mpcheckpoint.begin_worker_1(
    p_session text, p_store bigint, p_id bytea, p_lock bigint, p_begun_us bigint, p_host text, p_pid integer,
    p_command text
) returns boolean language plpgsql as $$
begin
    if current_setting('mpcheckpoint.session', true) is distinct from p_session then
        raise exception 'another session' using errcode = 'MP001';
    end if;
    if not pg_try_advisory_lock(p_lock) then
        return false;
    end if;
    perform set_config('synchronous_commit', 'off', true);
    insert into mpcheckpoint.worker values (p_store, p_id, p_lock, p_begun_us, p_host, p_pid, p_command);
    return true;
end $$;

-- Retire a worker; p_lock: of one of this session, else null.
create function mpcheckpoint.retire_worker_1(p_store bigint, p_id bytea, p_lock bigint)
returns void language plpgsql as $$
begin
    perform set_config('synchronous_commit', 'off', true);
    delete from mpcheckpoint.worker where store = p_store and id = p_id;
    if p_lock is not null then
        perform pg_advisory_unlock(p_lock);
    end if;
end $$;

-- Which of some workers live (all, where p_ids is null), as a server tells that others may write to: on a standby its
-- own locks would be asked. p_own: those of this session, for whom asking for the lock tells nothing.
create function mpcheckpoint.live_workers_1(p_store bigint, p_ids bytea[], p_own bytea[])
returns setof mpcheckpoint.worker language plpgsql as $$
begin
    if pg_is_in_recovery() then
        raise exception 'a standby does not know who lives: ask the primary' using errcode = 'MP003';
    end if;
    return query select w.* from mpcheckpoint.worker w
        where w.store = p_store and (p_ids is null or w.id = any(p_ids))
            and (w.id = any(p_own) or not pg_try_advisory_xact_lock_shared(w.lock));
end $$;

-- Two roles without login, to be granted, are what least privilege is: made by an administrator, if wanted.
--   create role mpcheckpoint_reader;
--   grant usage on schema mpcheckpoint to mpcheckpoint_reader;
--   grant select on all tables in schema mpcheckpoint to mpcheckpoint_reader;
--   create role mpcheckpoint_writer in role mpcheckpoint_reader;
--   grant insert on mpcheckpoint.store, mpcheckpoint.log, mpcheckpoint.batch, mpcheckpoint.worker, mpcheckpoint.leftover to mpcheckpoint_writer;
--   grant update on mpcheckpoint.store, mpcheckpoint.log, mpcheckpoint.worker to mpcheckpoint_writer;
--   grant delete on mpcheckpoint.batch, mpcheckpoint.worker, mpcheckpoint.leftover to mpcheckpoint_writer;
