{#- Current state and history of a source's table, out of the events of its bronze change table.

    models/silver/customers.sql is a call of change_state() and nothing else; customers_history.sql of change_history().

    source    the change table: source('bronze', 'shop_db__customers')
    contract  the Pandera model of the source's row: 'shop_db.Customers'
    keys      columns that name a row: ['customer_id']
    bucket    SQL over the keys: the partition of a key. It must never change for a key, and should keep what changes
              together together: 'customer_id // 100000' of numbers that grow; 'md5_number_lower(stock_code) % 16' of
              text. (hash() may change with DuckDB's version.)
    valid_at  column of the source that says since when the row is as it is; the commit's time where it is null

    What is read: the events of the batches that bronze has gained since the model's last commit. They are folded on to
    the stored rows. Keys with a late event (one older than what is applied already) are folded anew from all their
    events; a late truncation makes the whole model anew. So any order, repetition and split of the events ends in the
    same rows. pipeline_assets/dbt_plugin/changes.py tells which of this a run needs; the SQL has no more than that.
-#}

{#- One row per key that ever was: the row as of its last event. `_deleted` rows are tombstones, all null but the key. A
    column whose value no event has told (yet) is null and named in `_unavailable`. -#}
{% macro change_state(source, contract, keys, bucket) -%}
{{- config(
    contract={'enforced': false},
    meta={
        'strategy': 'merge',
        'unique_key': keys + ['_bucket'],
        'sequence': ['_commit_lsn', '_tx_seq'],
        'partition_by': '_bucket',
        'date_column': '_changed_date',
        'optional': true,
    }
) -}}
{%- set changes = read_changes(source, contract, keys, bucket, needs_stored=false) -%}
{%- if changes -%}
{%- set key = changes['keys'] | map(attribute='name') | join(', ') -%}

{{ _events(changes, key) }}

last_events as (

    select *
    from told_events
    qualify row_number() over (partition by {{ key }} order by commit_lsn desc, tx_seq desc) = 1

),

final as (

    select
        {{ _columns_after(changes, key) }}
        op in ('d', 't') as _deleted,
        {{ _unavailable_columns(changes) }} as _unavailable,
        commit_lsn as _commit_lsn,
        tx_seq as _tx_seq,
        ts as _changed_at,
        cast(ts as date) as _changed_date,
        cast({{ bucket }} as bigint) as _bucket,
    {{ _from_events_and_stored_rows(changes, key, 'last_events', live='not _deleted') }}

)

select * from final
{%- endif -%}
{%- endmacro %}


{#- One row per version of a key, from `valid_from` to before `valid_to`. The versions of a key follow each other with
    no gap: the time after a delete is a version, too (`is_deleted`). States that lasted no time are left out, and what
    changed nothing makes no version. -#}
{% macro change_history(source, contract, keys, bucket, valid_at=none) -%}
{{- config(
    contract={'enforced': false},
    meta={
        'strategy': 'replace',
        'unique_key': keys + ['valid_from', '_bucket'],
        'partition_by': '_bucket',
        'date_column': '_changed_date',
        'optional': true,
    }
) -}}
{%- set changes = read_changes(source, contract, keys, bucket, needs_stored=true) -%}
{%- if changes -%}
{%- set key = changes['keys'] | map(attribute='name') | join(', ') -%}
{%- set content = (changes['columns'] | map(attribute='name') | list + ['is_deleted', '_unavailable']) | join(', ') -%}

{{ _events(changes, key) }}

states as (

    select
        {{ _columns_after(changes, key) }}
        op in ('d', 't') as is_deleted,
        {{ _unavailable_columns(changes) }} as _unavailable,
        op,
        commit_lsn,
        tx_seq,
        ts,
    {{ _from_events_and_stored_rows(changes, key, 'told_events', live='valid_to is null and not is_deleted') }}

),

{%- if changes['stored'] %}

stored_versions as not materialized (

    select stored.*
    from {{ changes['stored'] }} as stored
    {%- if not changes['truncated'] %}
    semi join ({{ _keyed_events(changes, changes['new']) }}) as touched using ({{ key }})
    {%- endif %}
    {%- if changes['late_until'] is not none %}
    anti join late_keys using ({{ key }})
    {%- endif %}

),

-- The new events go on from the last version; from the one before it, should the last turn out to have lasted no time.
last_versions as (

    select *
    from stored_versions
    qualify row_number() over (partition by {{ key }} order by valid_from desc) <= 2

),

{%- endif %}

moments as (

    select
        {{ key }},
        {{ content }},
        op,
        commit_lsn,
        tx_seq,
        ts,
        {% if valid_at -%}
        case when is_deleted then ts else coalesce({{ adapter.quote(valid_at) }}, ts) end as said_at,
        {%- else -%}
        ts as said_at,
        {%- endif %}
        cast(null as timestamptz) as known_from,
    from states

    {%- if changes['stored'] %}

    union all

    select
        {{ key }},
        {{ content }},
        'r' as op,
        _commit_lsn,
        _tx_seq,
        _committed_at,
        coalesce(_as_of, valid_from),
        valid_from,
    from last_versions

    {%- endif %}

),

{%- if changes['truncated'] %}

-- A truncation before a key's first event is none of its own.
own_moments as (

    select *
    from moments
    qualify bool_or(op <> 't') over (partition by {{ key }} order by commit_lsn, tx_seq)

),

{%- endif %}

-- Clocks go backwards now and then, events do not: a state begins no earlier than the ones before it.
begun as (

    select
        *,
        coalesce(known_from, max(said_at) over up_to_now) as valid_from,
        max(said_at) over all_of_key as as_of,
        last_value(ts) over all_of_key as last_ts,
    from {{ 'own_moments' if changes['truncated'] else 'moments' }}
    window
        up_to_now as (partition by {{ key }} order by commit_lsn, tx_seq),
        all_of_key as (
            partition by {{ key }} order by commit_lsn, tx_seq
            rows between unbounded preceding and unbounded following
        )

),

-- Of states that begin at the same moment, the last is the one that lasted.
lasting as (

    select *
    from begun
    qualify lead(valid_from) over (partition by {{ key }} order by commit_lsn, tx_seq) is distinct from valid_from

),

different as (

    select *
    from lasting
    qualify
        row({{ content }})
        is distinct from lag(row({{ content }})) over (partition by {{ key }} order by commit_lsn, tx_seq)

),

versions as (

    select
        {{ key }},
        {% for column in changes['columns'] -%}
        {{ column.name }},
        {% endfor -%}
        valid_from,
        lead(valid_from) over in_order as valid_to,
        lead(valid_from) over in_order is null and not is_deleted as is_current,
        is_deleted,
        _unavailable,
        commit_lsn as _commit_lsn,
        tx_seq as _tx_seq,
        ts as _committed_at,
        case when lead(valid_from) over in_order is null then as_of end as _as_of,
        -- The day on which the row came to be as it is: its version was opened, confirmed or closed.
        cast(coalesce(lead(ts) over in_order, last_ts) as date) as _changed_date,
        cast({{ bucket }} as bigint) as _bucket,
        known_from is not null and lead(known_from) over in_order is not null as is_as_stored,
    from different
    window in_order as (partition by {{ key }} order by commit_lsn, tx_seq)

),

{%- if changes['stored'] %}

-- Stored rows that the versions take the place of.
gone as (

    select {{ key }}, valid_from, _bucket
    from stored_versions
    where valid_to is null

    {%- if changes['late_until'] is not none %}

    union all

    select {{ key }}, valid_from, _bucket
    from {{ changes['stored'] }}
    semi join late_keys using ({{ key }})

    {%- endif %}

),

{%- endif %}

final as (

    select
        * exclude (is_as_stored),
        {%- if changes['stored'] %}
        false as _gone,
        {%- endif %}
    from versions
    where not is_as_stored

    {%- if changes['stored'] %}

    union all

    select
        {{ key }},
        {% for column in changes['columns'] -%}
        cast(null as {{ column.type }}) as {{ column.name }},
        {% endfor -%}
        valid_from,
        cast(null as timestamptz) as valid_to,
        cast(null as boolean) as is_current,
        cast(null as boolean) as is_deleted,
        cast(null as varchar[]) as _unavailable,
        cast(null as bigint) as _commit_lsn,
        cast(null as bigint) as _tx_seq,
        cast(null as timestamptz) as _committed_at,
        cast(null as timestamptz) as _as_of,
        cast(null as date) as _changed_date,
        _bucket,
        true as _gone,
    from gone

    {%- endif %}

)

select * from final
{%- endif -%}
{%- endmacro %}


{#- `told_events`: the events to fold, by key. Truncations are events of every key. If some events lack columns,
    `_told_n` is the document that last told column n, `_origin` and `_origin_life` the row's first key and life. -#}
{% macro _events(changes, key) -%}
with {{ 'recursive' if changes['moved'] }} new_events as not materialized (

    {{ _keyed_events(changes, changes['new']) }}

),

{%- if changes['late_until'] is not none %}

every_event as not materialized (

    {{ _keyed_events(changes, changes['every']) }}

),

{%- if changes['moved'] %}

-- Keys of one row: an update of the key is a delete and an insert at one place of the log.
bonds as (

    select {{ _struct(key, 'a') }} as one, {{ _struct(key, 'b') }} as other
    from every_event as a
    inner join every_event as b on a.commit_lsn = b.commit_lsn and a.lsn = b.lsn
    where
        (a.op = 'd' and b.op = 'c' and len(b.unavailable) > 0)
        or (b.op = 'd' and a.op = 'c' and len(a.unavailable) > 0)

),

late_rows as (

    select {{ _struct(key) }} as one
    from new_events
    where op <> 't' and commit_lsn <= {{ changes['late_until'] }}

    union

    select bonds.other
    from late_rows
    inner join bonds on bonds.one = late_rows.one

),

late_keys as (

    select unnest(one) from late_rows

),

{%- else %}

late_keys as (

    select distinct {{ key }}
    from new_events
    where op <> 't' and commit_lsn <= {{ changes['late_until'] }}

),

{%- endif %}

row_events as (

    select * from new_events anti join late_keys using ({{ key }}) where op <> 't'

    union all

    select * from every_event semi join late_keys using ({{ key }})

),

{%- else %}

row_events as (

    select * from new_events where op <> 't'

),

{%- endif %}

{%- if changes['truncated'] %}

truncations as (

    select touched.*, new_events.* exclude ({{ key }})
    from (
        select {{ key }} from row_events
        {%- if changes['stored'] %}
        union
        select {{ key }} from {{ changes['stored'] }}
        {%- endif %}
        {%- if changes['late_until'] is not none %}
        except
        select {{ key }} from late_keys
        {%- endif %}
    ) as touched
    cross join new_events
    where new_events.op = 't'

    {%- if changes['late_until'] is not none %}

    union all

    select late_keys.*, every_event.* exclude ({{ key }})
    from late_keys
    cross join every_event
    where every_event.op = 't'

    {%- endif %}

),

{%- endif %}

events as (

    select * from row_events
    {%- if changes['truncated'] %}
    union all
    select * from truncations
    {%- endif %}

),

{%- set incomplete = changes['columns'] | selectattr('told') | list %}
{%- if not incomplete %}

told_events as (

    select *
    from events

),

{%- else %}

-- A row lives from its insert to its delete. What a change leaves out is as an earlier event of that life told it.
lives as (

    select
        *,
        {{ _struct(key) }} as _id,
        count(*) filter (where op <> 'u') over (partition by {{ key }} order by commit_lsn, tx_seq) as _life,
    from (
        select *
        from events
        qualify row_number() over (partition by {{ key }}, commit_lsn, tx_seq) = 1
    )

),

{%- if changes['moved'] %}

-- An update of the key is a delete and an insert at one place of the log: the row lives on under another key.
moves as (

    select
        new._id,
        new._life,
        old._id as _from_id,
        old._life - 1 as _from_life,
    from lives as new
    inner join lives as old
        on new.commit_lsn = old.commit_lsn
        and new.lsn = old.lsn
        and new.tx_seq > old.tx_seq
    where new.op = 'c' and len(new.unavailable) > 0 and old.op = 'd'
    qualify row_number() over (partition by new._id, new._life order by old.tx_seq desc) = 1

),

chains as (

    select * from moves

    union all

    select
        chains._id,
        chains._life,
        moves._from_id,
        moves._from_life,
    from chains
    inner join moves
        on chains._from_id = moves._id
        and chains._from_life = moves._life

),

origins as (

    select chains.*
    from chains
    anti join moves
        on chains._from_id = moves._id
        and chains._from_life = moves._life

),

traced as (

    select
        lives.*,
        coalesce(origins._from_id, lives._id) as _origin,
        coalesce(origins._from_life, lives._life) as _origin_life,
    from lives
    left join origins using (_id, _life)

),

{%- else %}

traced as (

    select
        *,
        _id as _origin,
        _life as _origin_life,
    from lives

),

{%- endif %}

told_events as (

    select
        *,
        {%- for column in incomplete %}
        last_value(
            case when not list_contains(unavailable, {{ dbt.string_literal(column.source_name) }}) then after end
            ignore nulls
        ) over (partition by _origin, _origin_life order by commit_lsn, tx_seq) as {{ column.told }},
        {%- endfor %}
    from traced

),

{%- endif %}
{%- endmacro %}


{#- The events of a relation, with their keys' columns typed. -#}
{% macro _keyed_events(changes, relation) -%}
    select
        {% for column in changes['keys'] -%}
        {{ column.value }} as {{ column.name }},
        {% endfor -%}
        op,
        after,
        unavailable,
        commit_lsn,
        tx_seq,
        lsn,
        ts,
    from (select *, {{ changes['key_texts'] }} as _key from {{ relation }})
{%- endmacro %}


{#- Select list: the row's columns after each event, typed. -#}
{% macro _columns_after(changes, key) -%}
{%- for column in changes['keys'] -%}
        {{ 'events.' ~ column.name }},
        {% endfor -%}
        {%- for column in changes['columns'] -%}
        {%- if not column.told -%}
        {{ column.value }} as {{ column.name }},
        {% elif changes['stored'] -%}
        case
            when {{ column.told }} is not null then {{ column.told_value }}
            else stored.{{ column.name }}
        end as {{ column.name }},
        {% else -%}
        {{ column.told_value }} as {{ column.name }},
        {% endif -%}
        {%- endfor -%}
{%- endmacro %}


{#- VARCHAR[] of the columns that no event has told yet. -#}
{% macro _unavailable_columns(changes) -%}
{%- set incomplete = changes['columns'] | selectattr('told') | list -%}
{%- if not incomplete -%}
cast([] as varchar[])
{%- else -%}
list_filter(
            [
                {%- for column in incomplete %}
                {%- set name = dbt.string_literal(column.source_name) %}
                case
                    when
                        op not in ('d', 't') and {{ column.told }} is null
                        {%- if changes['stored'] %}
                        and coalesce(list_contains(stored._unavailable, {{ name }}), true)
                        {%- endif %}
                        then {{ name }}
                end,
                {%- endfor %}
            ],
            lambda name : name is not null
        )
{%- endif -%}
{%- endmacro %}


{#- From clause: events, their documents taken apart, beside the stored row they go on from if some lack columns. -#}
{% macro _from_events_and_stored_rows(changes, key, relation, live) -%}
{%- set incomplete = changes['columns'] | selectattr('told') | list -%}
from (select *, {{ changes['row_texts'] }} as _row from {{ relation }}) as events
    {%- if incomplete and changes['stored'] %}
    left join (
        select
            {{ _struct(key) }} as _origin,
            cast(0 as bigint) as _origin_life,
            {%- for column in incomplete %}
            {{ column.name }},
            {%- endfor %}
            _unavailable,
        from {{ changes['stored'] }}
        where {{ live }}
        {%- if changes['late_until'] is not none %}
            and {{ _struct(key) }} not in (select {{ _struct(key) }} from late_keys)
        {%- endif %}
    ) as stored using (_origin, _origin_life)
    {%- endif %}
{%- endmacro %}


{#- The keys as one value. -#}
{% macro _struct(key, relation=none) -%}
{%- set prefix = relation ~ '.' if relation else '' -%}
{ {%- for name in key.split(', ') %}{{ name }}: {{ prefix }}{{ name }}{{ ', ' if not loop.last }}{% endfor -%} }
{%- endmacro %}
