{#- What models use to say which rows they recompute. The work is done in pipeline_assets/dbt_plugin/.

    A model of days:      from {{ touched_rows(source('bronze', 'shop__invoice_lines'), 'invoice_date') }}
    A model of keys:      where {{ touched_keys(ref('invoice_lines'), 'invoice_date', 'customer_id') }}
      of state, history:  from {{ changed_rows(ref('customers_history'), 'customer_id') }}
    What was before:      from {{ before(ref('customer_metrics')) }}
    Is it everything?     {% if is_rebuild() %} ... {% endif %}

    Each upstream that a model names here is followed: the model's commit records the upstream's version, and the next
    run recomputes what the upstream has changed since. A model of several upstream tables calls follow() with all of them
    first. In unit tests there is nothing to follow: everything is touched.

    State and history of change tables are macros of their own: changes/state.sql, changes/history.sql.
-#}

{#- A relation: the upstream's rows of the days to recompute, from files that hold such days only. `date_column` is the
    upstream's date or timestamp column; `also` a query of further days. -#}
{% macro touched_rows(upstream, date_column, also=none) -%}
    {%- if not _follows_lake() -%}
        {{- return(upstream) -}}
    {%- endif -%}
    {{- return(lake('touched_rows', model=_table(this), upstream=_table(upstream), column=date_column, also=also)) -}}
{%- endmacro %}

{#- A predicate on `key`: keys with rows in the touched days, of the upstream now or as it was when last applied (so
    that vanished keys are recomputed too, to nothing). `true` when everything is to be recomputed. -#}
{% macro touched_keys(upstream, date_column, key) -%}
    {%- if not _follows_lake() -%}
        {{- return('true') -}}
    {%- endif -%}
    {{- return(lake('touched_keys', model=_table(this), upstream=_table(upstream), column=date_column, key=key)) -}}
{%- endmacro %}

{#- Names all upstream tables that a model follows: if one of them asks for everything, the others' rows are all needed. -#}
{% macro follow() -%}
    {%- if _follows_lake() -%}
        {%- set upstreams = [] -%}
        {%- for upstream in varargs -%}
            {%- do upstreams.append(_table(upstream)) -%}
        {%- endfor -%}
        {%- do lake('follow', model=_table(this), upstreams=upstreams) -%}
    {%- endif -%}
{%- endmacro %}

{#- A predicate on `key`: keys of which the upstream, a table of state or history, has gained a row since it was applied.
    If `key` is the model's unique key, the stored rows of these keys go. -#}
{% macro changed_keys(upstream, key) -%}
    {%- if not _follows_lake() -%}
        {{- return('true') -}}
    {%- endif -%}
    {{- return(lake('changed_keys', model=_table(this), upstream=_table(upstream), key=key)) -}}
{%- endmacro %}

{#- A relation: the upstream's rows of its changed keys, from the partitions that hold such keys only. -#}
{% macro changed_rows(upstream, key) -%}
    {%- if not _follows_lake() -%}
        {{- return(upstream) -}}
    {%- endif -%}
    {{- return(lake('changed_rows', model=_table(this), upstream=_table(upstream), key=key)) -}}
{%- endmacro %}

{#- For change_state() and change_history(): relations of the events to fold, SQL of their columns, and what need not be
    asked of them (pipeline_assets/dbt_plugin/changes.py). None while dbt parses. -#}
{% macro read_changes(source, contract, keys, bucket, needs_stored) -%}
    {%- if not execute -%}
        {{- return(none) -}}
    {%- elif not _follows_lake() -%}
        {{- return(lake('unread_changes', contract_name=contract, keys=keys, upstream=source ~ '')) -}}
    {%- endif -%}
    {{- return(lake(
        'read_changes', model=_table(this), upstream=_table(source), contract_name=contract, keys=keys, bucket=bucket,
        needs_stored=needs_stored
    )) -}}
{%- endmacro %}

{#- A relation: the upstream at the version that the model's stored rows reflect. Call it ahead of touched_rows(). -#}
{% macro before(upstream) -%}
    {%- if not _follows_lake() -%}
        {{- return(upstream) -}}
    {%- endif -%}
    {{- return(lake('before', model=_table(this), upstream=_table(upstream))) -}}
{%- endmacro %}

{#- Whether the model recomputes all its rows. Call it after the others. -#}
{% macro is_rebuild() -%}
    {{- return(lake('is_rebuild', model=_table(this)) if _follows_lake() else true) -}}
{%- endmacro %}

{#- A predicate on a table's days that its data tests have to look at: those this run touched or was asked for, and those
    that no table downstream has accepted yet. `true` for tables without days, or that this run does not build. -#}
{% macro test_days(relation) -%}
    {{- return(lake('test_range', table=_table(relation)) if execute else 'true') -}}
{%- endmacro %}

{% macro open_lake() -%}
    {%- if execute -%}
        {%- do lake('begin', graph=graph, selected=selected_resources, full_refresh=flags.FULL_REFRESH) -%}
    {%- endif -%}
{%- endmacro %}

{#- Calls the plugin. dbt-duckdb's `store_relation` is the one door to it, and gives nothing back: the answer comes in
    the dict that went in. -#}
{% macro lake(action) -%}
    {%- set call = {'action': action, 'arguments': kwargs, 'answer': none} -%}
    {%- do adapter.store_relation('lake', none, [], none, 'delta', call) -%}
    {{- return(call['answer']) -}}
{%- endmacro %}

{% macro _follows_lake() -%}
    {{- return(execute and model.resource_type != 'unit_test') -}}
{%- endmacro %}

{% macro _table(relation) -%}
    {{- return(relation.schema ~ '.' ~ relation.identifier) -}}
{%- endmacro %}
