{#- `backfilled_events`: `events`, and where to find the columns that they leave out. If some events lack columns,
    `__backfill_n` is the latest document of the same row that holds column n; `__first_key` and `__first_lifetime` name
    the row by its first key, and by its first lifetime under that key. -#}
{% macro changes__backfilled_events(changes, key) -%}
{%- set incomplete = changes['columns'] | selectattr('backfill') | list -%}
{%- if not incomplete -%}

backfilled_events as (

    select *
    from events

),

{%- else -%}

-- The lifetime of a row begins with its insert and ends with its delete. A column that a change leaves out still has
-- the value that an earlier event of the same lifetime gave it.
lifetimes as (

    select
        *,
        {{ changes__key_struct(changes) }} as __id,
        count(*) filter (where __op <> 'u') over (partition by {{ key }} order by __commit_lsn, __tx_seq) as __lifetime,
    from (
        select *
        from events
        qualify row_number() over (partition by {{ key }}, __commit_lsn, __tx_seq) = 1
    )

),

{%- if changes['has_key_changes'] %}

-- An update of the key arrives as a delete and an insert at one log position: the same row goes on under another key.
key_changes as (

    select
        new.__id,
        new.__lifetime,
        old.__id as __from_id,
        old.__lifetime - 1 as __from_lifetime,
    from lifetimes as new
    inner join lifetimes as old
        on new.__commit_lsn = old.__commit_lsn
        and new.__lsn = old.__lsn
        and new.__tx_seq > old.__tx_seq
    where new.__op = 'c' and len(new.__unavailable) > 0 and old.__op = 'd'
    qualify row_number() over (partition by new.__id, new.__lifetime order by old.__tx_seq desc) = 1

),

key_change_chains as (

    select * from key_changes

    union all

    select
        key_change_chains.__id,
        key_change_chains.__lifetime,
        key_changes.__from_id,
        key_changes.__from_lifetime,
    from key_change_chains
    inner join key_changes
        on key_change_chains.__from_id = key_changes.__id
        and key_change_chains.__from_lifetime = key_changes.__lifetime

),

-- The lineage of a row: its first key and lifetime, before any change of its key.
lineage as (

    select key_change_chains.*
    from key_change_chains
    anti join key_changes
        on key_change_chains.__from_id = key_changes.__id
        and key_change_chains.__from_lifetime = key_changes.__lifetime

),

rows_named as (

    select
        lifetimes.*,
        coalesce(lineage.__from_id, lifetimes.__id) as __first_key,
        coalesce(lineage.__from_lifetime, lifetimes.__lifetime) as __first_lifetime,
    from lifetimes
    left join lineage using (__id, __lifetime)

),

{%- else %}

rows_named as (

    select
        *,
        __id as __first_key,
        __lifetime as __first_lifetime,
    from lifetimes

),

{%- endif %}

backfilled_events as (

    select
        *,
        {%- for column in incomplete %}
        last_value(
            case when not list_contains(__unavailable, {{ dbt.string_literal(column.source_name) }}) then __after end
            ignore nulls
        ) over (partition by __first_key, __first_lifetime order by __commit_lsn, __tx_seq) as {{ column.backfill }},
        {%- endfor %}
    from rows_named

),

{%- endif %}
{%- endmacro %}
